"""Sphinx's configuration of the web book, `make book`: nothing is run again."""

import os
from importlib.metadata import distribution

project, author = "scta_lite", "the authors of scta_lite"
copyright = f"{author}, MIT licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["static"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True

# MathJax from a package, and formulas as SVG, in one file: so the book needs no network
mathjax_path = "tex-svg-full.js"
_mathjax = distribution("sphinx-mathjax-offline").locate_file(
    f"sphinx-mathjax-offline/static/mathjax/{mathjax_path}"
)
html_static_path = ["static", "figures/fig_headline.png", str(_mathjax)]
mathjax3_config = {"options": {"enableMenu": False}}  # so that formulas are no stops of the Tab key

html_theme = "sphinx_book_theme"
html_title = "scta_lite"
about = "A language model over a million tokens without its softmax: a paper, run again and checked"
site = ""  # where the book is published, for what is shown of it where somebody links to it
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
}
if repository := os.environ.get("GITHUB_REPOSITORY"):
    owner, _, name = repository.partition("/")
    site = f"https://{owner}.github.io/{name}/"
    html_theme_options |= {
        "repository_url": f"https://github.com/{repository}",
        "repository_branch": "main",
        "use_repository_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }
myst_html_meta = {
    "description": about,
    "property=og:title": "scta_lite",
    "property=og:description": about,
    "property=og:image": f"{site}_static/fig_headline.png",
    "twitter:card": "summary_large_image",
}
