"""Pictures as SVG, made on the server: figures in, markup out. Colours come from the style sheet, by class."""
