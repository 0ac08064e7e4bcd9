"""The engine that runs any `torch.nn.Module`. Importing this loads no torch."""
