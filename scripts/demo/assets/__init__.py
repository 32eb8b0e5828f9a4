"""What the page is made of besides Gradio: texts, style, a script."""
