"""The site of the executed notebooks: `make site`, from the sources that tools/site.py gathers."""

project = "TransformerLens Tutorials"
author = "The TransformerLens Tutorials authors"
extensions = ["myst_nb"]
nb_execution_mode = "off"  # tools/site.py has executed them, with claims
nb_output_stderr = "show"
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]  # plotly's own; its HTML stands beside it
exclude_patterns = ["html", "jupyter_execute"]
html_theme = "furo"
html_static_path = ["static"]
html_js_files = ["plotly.min.js", "circuitsvis.js"]
html_title = project
html_show_sphinx = False
html_copy_source = False  # an executed notebook would be carried twice
html_theme_options = {"navigation_with_keys": True}
