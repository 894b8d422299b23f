//! The mesh as one system, from outside: the real program, real servers, real TLS.

mod apart;
mod beginning;
mod beside;
mod canary;
mod earnest;
mod faults;
mod foreign;
mod fuzz;
mod isolation;
mod job;
mod job_faults;
mod job_sides;
mod job_uploads;
mod life;
mod mesh;
mod pages;
mod peers;
mod permissions;
mod person;
mod step_up;
mod trust;
mod uploaded;
