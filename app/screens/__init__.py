"""The screens: widgets and calls only."""
