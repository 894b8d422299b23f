//! Row changes into a plan that undoes them, and the plan into SQL.
