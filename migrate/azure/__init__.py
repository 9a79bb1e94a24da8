"""What migrate asks of Azure, behind the same protocols as AWS."""
