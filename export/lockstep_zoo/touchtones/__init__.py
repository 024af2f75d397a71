"""Touch tones: a CTC model that reads the keys of a telephone from sound, trained on sound made here."""
