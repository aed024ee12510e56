"""What a launch does about Ray's processes that die, hang, or are left behind."""
