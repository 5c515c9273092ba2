"""EuroSAT tiles -> trained model -> evaluation report -> TorchScript -> model archive."""
