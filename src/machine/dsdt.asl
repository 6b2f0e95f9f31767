// SPDX-License-Identifier: MIT
//
// The DSDT of the microvm board: what ACPI cannot find out by itself. Compiled by iasl at build time
// and embedded. Addresses and interrupts repeat those of microvm.c, which checks nothing: change both.
//
// Source: ACPI Specification 6.5, chapters 6 (device configuration), 7 (power), 19 (ASL).

DefinitionBlock ("", "DSDT", 2, "LODGE ", "LODGEVM ", 1)
{
    // S5, power off: the values for PM1a_CNT.SLP_TYP (ACPI_PM_SLP_TYP_S5).
    Name (\_S5, Package () { 5, 5, 0, 0 })

    // Which interrupt controller the system uses: 0 PIC, 1 APIC. See _PRT.
    Name (PICF, 0)
    Method (\_PIC, 1, NotSerialized) { PICF = Arg0 }

    Scope (\_SB)
    {
        // Address space that no device below claims.
        Device (RES0)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xe0000000, 0x10000000)   // ECAM
                IO (Decode16, 0x0600, 0x0600, 0x01, 0x24)           // ACPI power management
                IO (Decode16, 0x0510, 0x0510, 0x01, 0x0c)           // fw_cfg
            })
        }

        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))     // PCI Express root bridge
            Name (_CID, EisaId ("PNP0A03"))     // PCI root bridge
            Name (_SEG, 0)
            Name (_BBN, 0)
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0, 0, 0xff, 0, 0x100)
                IO (Decode16, 0x0cf8, 0x0cf8, 0x01, 0x08)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0, 0x0000, 0x0cf7, 0, 0x0cf8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0, 0x0d00, 0xffff, 0, 0xf300)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                    0, 0xc0000000, 0xdfffffff, 0, 0x20000000)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                    0, 0xf0000000, 0xfebfffff, 0, 0x0ec00000)
            })

            // Pin p of slot s is wired to line (s + p) % 4: I/O APIC inputs 16 to 19, and in PIC mode
            // the ISA interrupts 10, 11, 10, 11.
            Method (_PRT, 0, Serialized)
            {
                Local0 = Package (128) {}
                Local1 = 0
                While (Local1 < 128)
                {
                    Local2 = Local1 >> 2                // slot
                    Local3 = (Local2 + Local1) & 3      // line: the pin is Local1 & 3
                    Local4 = Package (4) { 0, 0, 0, 0 }
                    Local4[0] = (Local2 << 16) | 0xffff
                    Local4[1] = Local1 & 3
                    If (PICF == 1)
                    {
                        Local4[3] = Local3 + 16
                    }
                    Else
                    {
                        Local4[3] = (Local3 & 1) + 10
                    }
                    Local0[Local1] = Local4
                    Local1++
                }
                Return (Local0)
            }
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))     // 16550A
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03f8, 0x03f8, 0x01, 0x08)
                IRQNoFlags () { 4 }
            })
        }

        Device (RTC)
        {
            Name (_HID, EisaId ("PNP0B00"))     // MC146818
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0070, 0x0070, 0x01, 0x02)
                IRQNoFlags () { 8 }
            })
        }
    }
}
