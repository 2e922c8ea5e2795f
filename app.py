"""The browser app: which pages there are, and the frame that every page stands in.

Start it with ``streamlit run app.py``.
"""

import streamlit as st

from pages import _widgets

st.set_page_config(page_title="PhenoKit", layout="wide")
ieeg = st.Page("pages/ieeg.py", title="iEEG")
page = st.navigation(
    [
        st.Page("pages/ecg.py", title="ECG", default=True),
        ieeg,
        st.Page("pages/cohort.py", title="Cohort"),
        st.Page("pages/associations.py", title="Associations"),
        st.Page("pages/risk.py", title="Risk"),
        st.Page("pages/models.py", title="Models"),
    ],
    position="top",
)
_widgets.show_frame(_widgets.IEEG if page is ieeg else _widgets.ECG)
with _widgets.page_of_the_app():
    page.run()
