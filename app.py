"""The browser app: who comes in, which pages there are, and the frame around each.

Start it with ``streamlit run app.py``.
"""

import streamlit as st

from pages import _admission, _logs, _outside, _sign_in, _widgets

_outside.ask_nobody()
_logs.keep_words_out()
st.set_page_config(page_title="PhenoKit", layout="wide")
visit = _sign_in.enter()
place = _admission.place_in_line(is_wanted=not visit.closed)
ieeg = st.Page("pages/ieeg.py", title="iEEG")
page = st.navigation(
    [
        st.Page("pages/ecg.py", title="ECG", default=True),
        ieeg,
        st.Page("pages/cohort.py", title="Cohort"),
        st.Page("pages/associations.py", title="Associations"),
        st.Page("pages/risk.py", title="Risk"),
        st.Page("pages/jobs.py", title="Jobs"),
        st.Page("pages/models.py", title="Models"),
    ],
    position="hidden" if visit.closed or place else "top",
)
if visit.closed:
    _sign_in.show_way_in(visit)
elif place:
    _admission.show_line(place)
else:
    _widgets.show_frame(visit, _widgets.IEEG if page is ieeg else _widgets.ECG)
    with _widgets.page_of_the_app(page.title.lower()):
        page.run()
