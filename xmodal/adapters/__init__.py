"""Methods that edit a frozen encoder, one file each."""
