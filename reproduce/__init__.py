"""Runs the chapters, compares them with the stored ones, and writes the pages made from them.

``python -m reproduce --help`` lists the commands. Neither nclib nor a chapter imports this package.
"""
