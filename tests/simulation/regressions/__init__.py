"""Plans that once failed, cut down by the simulator; each must run clean from now on."""
