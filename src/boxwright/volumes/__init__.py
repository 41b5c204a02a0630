"""Volumes: the store of names, and the drivers that make the directories behind them."""
