"""What commands draw: tables, progress, logs."""
