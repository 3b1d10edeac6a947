"""A page to write questions and answers beside each clip of a folder: `pllava data label FOLDER`."""
