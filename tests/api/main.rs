//! The API and its command-line client from outside. A task that answers the engine's requests stands in for the dataflow:
//! what is tested here is what lies in front of the handle.

mod access;
mod actions;
mod audit;
mod backend;
mod client;
mod document;
mod hostile;
mod local;
mod many;
mod oidc;
mod pty;
mod routes;
mod terminal;
mod tls;
mod watches;
