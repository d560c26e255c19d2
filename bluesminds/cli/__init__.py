"""The command line, one file per noun. No logic: it reads words, asks the gateway and shows what it says."""
