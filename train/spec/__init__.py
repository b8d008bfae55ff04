"""What a training and a study are asked: frozen, strict models that load no torch."""
