# SPDX-License-Identifier: MIT
"""Tiny multiboot kernels for the tests of the command line: a few instructions each, assembled by hand."""
import struct

LOAD = 0x100000
CODE = LOAD + 12  # behind the multiboot header


def multiboot(code):
    """A 32-bit ELF file with one segment at 1 MiB: multiboot 1 header, then code, which is the entry."""
    header = struct.pack("<III", 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
    segment = header + code
    offset = 52 + 32
    elf = struct.pack("<4sBBBB8xHHIIIIIHHHHHH", b"\x7fELF", 1, 1, 1, 0, 2, 3, 1, CODE, 52, 0, 0, 52, 32, 1, 40, 0, 0)
    program = struct.pack("<IIIIIIII", 1, offset, LOAD, LOAD, len(segment), len(segment), 7, 4)
    return elf + program + segment


def debug_exit(value):
    """mov al, value; out 0xf4, al; 1: hlt; jmp 1b"""
    return multiboot(bytes([0xB0, value, 0xE6, 0xF4, 0xF4, 0xEB, 0xFD]))


def triple_fault():
    """lidt [six zero bytes]; int3"""
    return multiboot(bytes([0x0F, 0x01, 0x1D]) + struct.pack("<I", CODE + 8) + bytes([0xCC]) + bytes(6))


def spin():
    """1: inc eax; jmp 1b"""
    return multiboot(bytes([0x40, 0xEB, 0xFD]))


def idle():
    """1: hlt; jmp 1b, with interrupts off"""
    return multiboot(bytes([0xFA, 0xF4, 0xEB, 0xFD]))


def echo():
    """Serial port: what comes in goes out again. A "!" first; polls the line status register."""
    start = bytes([0x66, 0xBA, 0xF8, 0x03, 0xB0, 0x21, 0xEE])  # mov dx, 0x3f8; mov al, '!'; out dx, al
    loop = bytes([0x66, 0xBA, 0xFD, 0x03,  # 1: mov dx, 0x3fd
                  0xEC, 0xA8, 0x01,        # in al, dx; test al, 1
                  0x74, 0xF7,              # jz 1b
                  0x66, 0xBA, 0xF8, 0x03,  # mov dx, 0x3f8
                  0xEC, 0xEE,              # in al, dx; out dx, al
                  0xEB, 0xEF])             # jmp 1b
    return multiboot(start + loop)


def count():
    """mov ebx, 0x1234; 1: inc ecx; call 2f; jmp 1b; 2: inc edx; ret: for a debugger. esp is set first."""
    return multiboot(bytes([0xBC]) + struct.pack("<I", 0x90000) +        # +0  mov esp, 0x90000
                     bytes([0xBB]) + struct.pack("<I", 0x1234) +         # +5  mov ebx, 0x1234
                     bytes([0x41,                                        # +10 inc ecx
                            0xE8, 2, 0, 0, 0,                            # +11 call +18
                            0xEB, 0xF8,                                  # +16 jmp +10
                            0x42, 0xC3]))                                # +18 inc edx; ret
