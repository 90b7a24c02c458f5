"""Where the time, the memory and the energy of an answer go, on a board or a PC; needs no torch."""
