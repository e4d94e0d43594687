"""Tokens: positions, the encoder on timm, heads, token batch norm, initial weights."""
