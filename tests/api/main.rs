//! The API and its command-line client from outside. A task that answers the engine's requests stands in for the dataflow:
//! what is tested here is what lies in front of the handle.

mod access;
mod actions;
mod backend;
mod client;
mod local;
mod routes;
mod watches;
