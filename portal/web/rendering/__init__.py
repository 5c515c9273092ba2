"""What pages draw: charts, saliency maps, model cards."""
