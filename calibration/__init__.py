"""INT8 calibration of exported graphs."""
