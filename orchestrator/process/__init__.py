"""How the process of a command begins and ends: signals, and the parent that starts a launch anew when Ray has died."""
