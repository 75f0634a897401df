"""Operations on names: making, removing and renaming files and directories."""
