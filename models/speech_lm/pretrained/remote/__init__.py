"""Code that exported folders carry: it imports torch and transformers alone, and runs without this project."""
