//! The UART's registers as a person sees them: nothing is read out of the FIFO.
use super::Uart16550;
use super::spec::{FIFO_DEPTH, IIR_FIFOS_ON, Iir, Lcr};
use crate::device::registers::{Block, Described, character, names};

impl Described for Uart16550 {
    fn describe(&self, called: &str) -> Vec<Block> {
        let s = &self.state;
        let cause = s.cause();
        let why = match cause {
            Iir::LineStatus => "line status",
            Iir::DataAvailable => "received data",
            Iir::Timeout => "received data below the trigger level",
            Iir::TransmitterEmpty => "transmitter empty",
            Iir::ModemStatus => "modem status",
            Iir::None => "no interrupt",
        };
        let fifos = if s.fifos_on { IIR_FIFOS_ON } else { 0 };
        let next = s.received.front().map_or(0, |first| first.byte);
        let waiting = match s.received.len() {
            0 => "nothing received".to_owned(),
            count => {
                let text: Vec<_> = s.received.iter().map(|r| character(r.byte)).collect();
                format!("{count} of {} received: {}", s.depth(), text.join(" "))
            }
        };
        let format = {
            let stop = if s.lcr.bits() & 4 == 0 { 1 } else { 2 };
            let parity = match s.lcr.bits() >> 3 & 7 {
                1 => "odd",
                3 => "even",
                5 => "mark",
                7 => "space",
                _ => "no",
            };
            format!("{} bits, {parity} parity, {stop} stop", 5 + (s.lcr & Lcr::WLS).bits())
        };
        let mut lcr = vec![format.into()];
        lcr.extend(names(&(s.lcr & (Lcr::BREAK | Lcr::DLAB))));
        let baud = match s.divisor {
            0 => "no rate".to_owned(),
            divisor => format!("{} baud", 115_200 / u32::from(divisor)),
        };
        let trigger = if s.fifos_on {
            format!("FIFOs on, {FIFO_DEPTH} characters, interrupt from {} on", s.trigger)
        } else {
            "FIFOs off".to_owned()
        };
        let line = if self.driven { "the interrupt line is high" } else { "the interrupt line is low" };
        vec![
            Block::new(called)
                .said("RBR", 8, next, waiting)
                .flags("IER", s.ier)
                .put("IIR", 8, cause as u8 | fifos, vec![why.into(), line.into()])
                .words("FCR", vec![trigger.into()])
                .put("LCR", 8, s.lcr.bits(), lcr)
                .flags("MCR", s.mcr)
                .flags("LSR", s.lsr())
                .flags("MSR", s.msr)
                .plain("SCR", 8, s.scr)
                .said("DLL/DLM", 16, s.divisor, baud)
                .words("host", vec![format!("{} characters wait for room", s.backlog.len()).into()]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Port;
    use crate::device::BytePorts;
    use crate::device::registers::tests::{find, line};
    use crate::device::uart16550::ConsoleSink;

    struct Nowhere;

    impl ConsoleSink for Nowhere {
        fn transmit(&mut self, _: &[u8]) {}
    }

    #[test]
    fn looking_consumes_and_clears_nothing() {
        let mut uart = Uart16550::new(Port(0x3f8), line(), Box::new(Nowhere));
        for (port, value) in [(0x3fa, 0x41), (0x3f9, 0x03), (0x3fc, 0x0b)] {
            uart.write_byte(Port(port), value);
        }
        assert_eq!(uart.receive(b"ab"), 2);
        let before = uart.saved();
        let blocks = uart.describe("uart16550");
        let words = |name| find(&blocks, "uart16550", name).words.join(", ");
        assert_eq!(find(&blocks, "uart16550", "RBR").value, Some(b'a'.into()));
        assert_eq!(words("RBR"), "2 of 16 received: 'a' 'b'");
        assert_eq!(words("IER"), "ERBFI, ETBEI");
        assert_eq!(words("IIR"), "received data below the trigger level, the interrupt line is high");
        assert_eq!(words("FCR"), "FIFOs on, 16 characters, interrupt from 4 on");
        assert_eq!(words("LSR"), "DR, THRE, TEMT");
        assert_eq!(words("DLL/DLM"), "9600 baud");
        assert_eq!(uart.saved(), before);
        assert_eq!((uart.read_byte(Port(0x3f8)), uart.read_byte(Port(0x3f8))), (b'a', b'b'));
    }
}
