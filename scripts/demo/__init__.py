"""A page on which visitors ask the shipped models about photographs, and see what each word or answer rests on.

    saywhy demo                     # http://127.0.0.1:7860; needs pip install 'saywhy[demo]'

What is computed: `limits` (how much a visitor may ask), `answers` (a photograph and a text -> HTML), `worker` (one
inference at a time, none for ever). How it is shown: `page` (three tabs, in Gradio), `guard` (which addresses of the
server answer at all), `server` (a port, and the page on it). docs/demo.md says how to run it for others.
"""
