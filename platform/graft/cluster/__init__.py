"""Jobs on a cluster: what is sent, how it stands, and the Ray that a command runs on."""
