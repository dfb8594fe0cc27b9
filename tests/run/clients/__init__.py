"""Programs that the tests run under ``ioas run``: plain os, fcntl and mmap, no import of ioas."""
