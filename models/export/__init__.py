"""Networks for other programs: exported with their front ends, checked, with a model card."""
