//! Numbers that stand in the object file where kernel functions without a helper number are called. The loader
//! replaces each; no helper will ever have such a number.

/// `bpf_preempt_disable()`
pub const PREEMPT_DISABLE: u32 = 0x7c70_0001;
/// `bpf_preempt_enable()`
pub const PREEMPT_ENABLE: u32 = 0x7c70_0002;
