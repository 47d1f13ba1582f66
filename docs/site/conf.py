"""The site of the executed notebooks: `make site`, from the sources that tools/site.py gathers."""

project = "TransformerLens Tutorials"
author = "The TransformerLens Tutorials authors"
copyright = f"{author}. Code and text: MIT; SmolLM2: Apache-2.0"  # the footer
extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design"]
nb_execution_mode = "off"  # tools/site.py has executed them, with claims
nb_output_stderr = "show"
nb_merge_streams = True  # printed lines in one box
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]  # plotly's own; its HTML stands beside it
exclude_patterns = ["html", "jupyter_execute", "extra"]
copybutton_selector = "div:not(.output) > div.highlight > pre"
html_theme = "furo"
html_static_path = ["static"]
html_extra_path = ["extra"]
html_css_files = ["site.css"]
html_js_files = ["page.js"]
html_favicon = "static/favicon.svg"
html_title = project
html_show_sphinx = False
html_copy_source = False  # an executed notebook would be carried twice


def setup(app):
    """The programs that draw, on those pages only that have something to draw."""

    def programs(app, page, template, context, doctree):
        if page == "index" or page.startswith("notebooks/"):
            for name in ("plotly.min.js", "figures.js"):
                app.add_js_file(name, loading_method="defer")

    app.connect("html-page-context", programs)
