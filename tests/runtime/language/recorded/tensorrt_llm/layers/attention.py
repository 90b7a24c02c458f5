class MropeParams:
    def __init__(self, mrope_rotary_cos_sin=None, mrope_position_deltas=None):
        self.mrope_rotary_cos_sin = mrope_rotary_cos_sin
        self.mrope_position_deltas = mrope_position_deltas
