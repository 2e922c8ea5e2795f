"""Associations of a cohort."""

import streamlit as st

from pages import _widgets

_widgets.require_app()
st.title("Associations")
