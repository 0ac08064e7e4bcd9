"""The engine that serves a language model of transformers. Importing this loads neither torch nor transformers."""
