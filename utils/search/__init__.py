"""train.py --search: many runs as one study, with Optuna (floor 1, above `report`)."""
