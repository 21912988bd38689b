"""`ekd evaluate`: a finished run on corrupted and foreign images."""
