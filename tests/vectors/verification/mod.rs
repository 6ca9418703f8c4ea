//! Proofs of commits: true ones of the protocol's vectors, of production and of a simulated network,
//! and what becomes of them once anything in them is changed.

mod alterations;
mod lies;
mod network;
mod production;
mod reference_server;
mod support;
mod vectors;
