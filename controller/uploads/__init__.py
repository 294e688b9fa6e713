"""`dvcr image upload`: a file of the user's becomes an image."""
