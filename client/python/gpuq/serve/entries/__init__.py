"""Models that gpuq brings: entry = "gpuq:NAME" in model.toml. Each imports its library when it is set up, in the model's own interpreter."""
NAMES = ("onnx", "sklearn", "ultralytics", "xgboost")


def only_file(folder: str, *suffixes: str) -> str:
    """The model's one file with such an ending. ValueError names what is there."""
    import os
    found = sorted(name for name in os.listdir(folder) if name.endswith(suffixes))
    if len(found) != 1:
        raise ValueError(f"the model folder holds {', '.join(found) or 'no file'} with {' or '.join(suffixes)}, and needs exactly one")
    return os.path.join(folder, found[0])
