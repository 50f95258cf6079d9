"""`graft demo`: all of the main job, on images that need no download."""
