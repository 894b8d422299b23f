//! What the operator of an installation does to tenants by hand. Each opens the database for itself; the services may run or not.

mod plan;
pub mod travel;

pub use plan::{PlanShown, Row, set_plan, show_plan};
