"""The verbs of the command line, a module each: its flags, and a few lines over one function of the library."""
