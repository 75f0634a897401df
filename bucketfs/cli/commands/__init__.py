"""The commands of the program: each module has ``run(argv)``."""
