"""What a network costs in time and memory: measured by segment on the device, and counted."""
