"""From a scene to a land-use map: read it, cut it into windows, ask the model, write the map."""
