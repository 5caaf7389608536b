"""What a run is while it lives: device, processes, seeds, steps, log, resuming."""
