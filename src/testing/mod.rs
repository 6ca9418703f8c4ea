//! What tests and demonstrations need inside the program: the fault seam, recordings, a mock relay.

pub mod fault;
pub mod mock_relay;
pub mod recording;
