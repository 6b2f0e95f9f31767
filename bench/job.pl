# SPDX-License-Identifier: MIT
# What the benchmark has Perl do: hashes, regular expressions, sorting, strings. Prints a checksum.
use strict;
use warnings;

my ($rounds, $seed, $sum) = ($ARGV[0], 12345, 0);

sub number {
	$seed = ($seed * 1103515245 + 12345) % 2147483648;
	return $seed >> 8;
}

for my $round (1 .. $rounds) {
	my %words;
	$words{"w" . number() % 997}++ for 1 .. 30000;
	my @sorted = sort { $words{$b} <=> $words{$a} || $a cmp $b } keys %words;
	$sum = ($sum * 31 + length(join(",", @sorted[0 .. 20]))) % 1000000007;
	my $text = join " ", map { sprintf "%x", number() } 1 .. 8000;
	my $count = () = $text =~ /\b[a-f]\w*[0-9]\b/g;
	(my $changed = $text) =~ s/([0-9])([a-f])/$2$1/g;
	$sum = ($sum * 31 + $count + unpack("%32C*", $changed)) % 1000000007;
	my @rows = map { [number() % 100, $_] } 1 .. 5000;
	@rows = sort { $a->[0] <=> $b->[0] or $a->[1] <=> $b->[1] } @rows;
	$sum = ($sum * 31 + $rows[2500][1]) % 1000000007;
}
print "$sum\n";
